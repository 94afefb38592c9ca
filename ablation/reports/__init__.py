"""What the records say: tables, statistics, figures, the page."""
