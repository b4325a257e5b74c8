"""Where the tensors of a trace, or the nodes and values of an earlier model, are in a graph.

`traced_values` finds the tensors of a trace. All other files compare a model with the earlier, tagged one from which a
tool made it. `surviving_names`, `weight_matches`, `equal_values` and `weight_users` find values that can be recognised
by themselves, `correspondence` follows them through the graph, and `node_matches` says which node does the work of
which earlier one. `earlier_model` does all of this in order, and `after_tool` annotates nodes with the results.
"""
