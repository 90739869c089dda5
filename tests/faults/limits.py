"""What a command may use in a fault."""

MEMORY = 3 << 30  # bytes that it may allocate
SECONDS = 60
