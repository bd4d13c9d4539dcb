"""What loopml costs, how exact it is, and what it gains: each number of the documentation."""
