"""What a person looks at: the audit of the interactions, pictures, a line an epoch."""
