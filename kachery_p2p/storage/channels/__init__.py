"""What a node keeps of channels besides their documents: invitations and admissions."""
