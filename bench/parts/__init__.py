"""The parts of `seawall bench`: each makes trials, some of them with targets beside each other."""
