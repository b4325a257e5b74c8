"""Find the smallest model that meets a target: which modules may be in which precision.

`tuning` has the entry, `tune`. What happens there, and the words that this folder uses for it:

1. `units` finds the units: nodes with weights that get one precision together, or stay in float32. `quantisers` says
   which precisions a unit can have, and which steps give it one; `steps` runs the steps.
2. `workshop` evaluates a model: it quantises the model as it is, and a judge (`judging`, `metrics`) returns a verdict.
   The verdict has the value, which the target is about, and the damage, which is 0 for unchanged outputs and about adds
   up over units.
3. `own_errors` has all units quantised side by side, and measures the error that each makes at its own result.
   `rehearsal` puts a switch at each unit of the model as it is, between the unit and what was made of it, and returns
   the damage at the outputs with some switches on.
4. `plans` finds plans, the precisions of all units, that have few bytes and are expected to do little damage. `search`
   rehearses the plans, and has the workshop evaluate those that are worth it.
5. `results` is what the search found, as a report and as a recipe.

"The model as it is" is always the model that was given, before anything is quantised.
"""
