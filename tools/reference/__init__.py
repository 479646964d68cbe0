"""The reference, made from the code: pages of the documentation's site, manual pages, completion scripts.

Part of the checkout, not of the package: `tools/docs` and the tests use it.
"""
