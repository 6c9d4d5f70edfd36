"""What is computed: the GPT, its weights and inputs, how tokens are drawn, and how much work it is."""
