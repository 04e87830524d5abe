"""Where a member lives: ids, slots, topology, pools and the directory of claims."""
