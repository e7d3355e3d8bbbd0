"""What is done with a pool whose run has reached its budget: measured, drawn, written, verified."""
