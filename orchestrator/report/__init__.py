"""What people see of rows: one description of a record's proof, `explain`, tables, the page."""
