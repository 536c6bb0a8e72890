"""What is looked at in the background: disk, sizes, processes, silence, approvals, age of history."""
