"""What a graph says by itself: the index, walks, operators, shapes, constants, names, operator sets."""
