"""What people read of the coverage: figures in, pages out. Pure, but for the files of published editions."""
