-- Lanes that walk pages, share their rest with each other, and count the updates that touched no index.

ALTER TABLE backfilld.lanes
    ADD COLUMN rows_expected bigint CHECK (rows_expected >= 0), -- an estimate; what is left is this less rows_walked
    ADD COLUMN rows_hot bigint;                                 -- of rows_changed; NULL: not counted

-- Sizes of the tables that are walked, before the walk and after it: {"before": {…}, "after": {…}}, in bytes.
ALTER TABLE backfilld.runs ADD COLUMN space jsonb;
