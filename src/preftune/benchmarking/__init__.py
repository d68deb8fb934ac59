"""What a benchmark measures with: operations, memory, and a model and pairs to measure on."""
