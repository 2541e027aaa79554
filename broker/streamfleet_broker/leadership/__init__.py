"""Which of several brokers on one store leads: the decisions, without the store and without a clock."""
