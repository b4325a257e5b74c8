"""What several test modules share, a file for each job; no test module imports from another one."""
