"""What is kept of a run: the tree of state, the files it lies in, the arguments a module was made with."""
