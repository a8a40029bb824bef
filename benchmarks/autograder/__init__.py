"""Our batch grading beside otter-grader's: submissions a minute on the same questions, checks and machine."""
