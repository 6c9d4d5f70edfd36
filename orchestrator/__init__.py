"""What runs outside the containers: plans cells, launches them, keeps records, makes tables."""
