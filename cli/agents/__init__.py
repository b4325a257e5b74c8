"""What programs that act for people use: the shape of what commands report, and the commands as tools."""
