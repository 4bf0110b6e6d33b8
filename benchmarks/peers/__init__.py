"""One file for each framework, written as its documentation writes it. A function that is not there: it has no such."""
