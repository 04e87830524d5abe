"""Where a member lives: ids, slots, topology, pools, forwarding; and how a process stands up and answers HTTP."""
