"""The doubles are packages of other names' owners, so pytest must not import them as modules."""

collect_ignore = ["pml3"]
