"""The autograder: problem sets written once, graded in isolation, wrong answers diagnosed."""
