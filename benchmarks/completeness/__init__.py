"""Parts of the benchmark `complete`: stand-in cameras that number what they make, loss, and the account."""
