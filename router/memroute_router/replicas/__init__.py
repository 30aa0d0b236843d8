"""The pools of replicas: who is in them, what each holds, whether targets can be met there."""
