"""People, the invitations by which they come, and the tenants they belong to."""
