"""The student's decisions and how they are learned; nothing here writes a file but `checkpoint`."""
