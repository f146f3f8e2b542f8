"""What a labelled frame is, and how DFT codes make one. Needs neither torch nor jobflow."""
