"""Pools of the old coin and another one each: exchange, liquidity, staking."""
