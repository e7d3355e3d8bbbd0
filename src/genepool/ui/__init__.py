"""What people see: commands, terminal, report, figures, and the functions of the package."""
