"""What of a trace or of an earlier model is where in a graph.

`traced_values` finds the tensors of a trace. All the other files find an earlier, tagged model in the one that a tool
made from it: `surviving_names`, `weight_matches`, `equal_values` and `weight_users` find values that are known by
themselves, `correspondence` follows them up, `node_matches` says which node does the work of which earlier one,
`earlier_model` does all of that in order, and `after_tool` annotates nodes with what came of it.
"""
