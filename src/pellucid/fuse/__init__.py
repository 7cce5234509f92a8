"""An update becomes a graph, a kernel and a launch.

Read the modules in this order: `graph`, `simplify`, `trace`, `segment`, `interpret`, `emit`,
`emit_numba`, `cache`, `pool`, `program`, `launch`.
"""
