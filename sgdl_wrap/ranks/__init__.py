"""Several processes that train one model by DistributedDataParallel: what they tell each other."""
