-- A switch that a person throws: nothing works in this database until it is lifted. The runs keep their own states.
ALTER TABLE backfilld.pace
    ADD COLUMN stopped_at timestamptz,
    ADD COLUMN stopped_by text,
    ADD CONSTRAINT a_stop_has_somebody_who_asked CHECK ((stopped_at IS NULL) = (stopped_by IS NULL));
