"""From records to rows: protocols, statistics, reduction, and comparisons of what came out."""
