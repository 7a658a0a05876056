"""What is done to a float network so that it loses less in int8: one file each."""
