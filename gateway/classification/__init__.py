"""What a query is: may a replica run it, what does it leave in the session. Pure.

    text -> parser (libpg_query) -> tree -> inspection, utilities -> statements -> Query

`classifier.Classifier(catalog).classify(text)` gives a `statements.Query`. What the parser cannot
tell, because it is in the database, is in a `catalog.Catalog`: which functions and operators are
volatile, which relations a replica must not read. `catalog.FUNCTIONS_SQL`, `OPERATORS_SQL` and
`VIEWS_SQL` read it, `catalog.catalog_of` makes it.

Invariants: whatever is not known to be a read is none; nothing that a client sends makes this
crash or take long; a cache never answers otherwise than the parser would.
"""
