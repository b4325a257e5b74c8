"""The smallest model that meets a target: which modules may be in which precision."""
