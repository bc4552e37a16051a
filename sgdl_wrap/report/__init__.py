"""What a person looks at: the audit of the interactions."""
