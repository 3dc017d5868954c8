"""Pictures of what a network learnt and how."""
