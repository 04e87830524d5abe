-- When a version of the program first decided something here: in force from then on, whatever a server's clock says.
ALTER TABLE program ADD COLUMN begun_at timestamptz;
