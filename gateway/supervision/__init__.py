"""What each device is, from what it and the gateway have said: conditions, proofs, trends, and the recorder of them all."""
