-- What a Supabase project looks like to a migration: its roles, the claims of a request, four tables of an application, and
-- row level security on each. Run by the superuser, who on Supabase is not `postgres` and whom users do not get.

-- Roles. `postgres` owns the tables and sees every row, and is no superuser; a request comes in as `authenticator` and becomes
-- `authenticated`, who sees what the policies show.
CREATE ROLE postgres LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE anon NOLOGIN NOINHERIT;
CREATE ROLE authenticated NOLOGIN NOINHERIT;
CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT anon, authenticated, service_role TO authenticator;
GRANT anon, authenticated, service_role TO postgres WITH ADMIN OPTION;
GRANT pg_monitor, pg_signal_backend TO postgres;
ALTER ROLE authenticator SET statement_timeout = '8s';
ALTER ROLE authenticator SET lock_timeout = '8s';
ALTER DATABASE postgres SET statement_timeout = '2min';
ALTER DATABASE postgres OWNER TO postgres;
ALTER SCHEMA public OWNER TO postgres;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;

-- Who is asking.
CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO postgres, anon, authenticated, service_role;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT (auth.jwt() ->> 'sub')::uuid $$;
CREATE FUNCTION auth.organisation() RETURNS integer LANGUAGE sql STABLE
    AS $$ SELECT (auth.jwt() -> 'app_metadata' ->> 'organisation')::integer $$;

-- The application.
SET ROLE postgres;

CREATE TABLE public.customers (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  integer NOT NULL,
    name          text NOT NULL,
    email         text NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.inventory (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  integer NOT NULL,
    sku           text NOT NULL UNIQUE,
    quantity      integer NOT NULL
);
CREATE TABLE public.jobs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  integer NOT NULL,
    customer_id   bigint NOT NULL REFERENCES public.customers,
    title         text NOT NULL,
    status        text NOT NULL,
    total         numeric(12, 2) NOT NULL DEFAULT 0,
    device_info   text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.messages (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  integer NOT NULL,
    job_id        bigint NOT NULL REFERENCES public.jobs ON DELETE CASCADE,
    body          text NOT NULL,
    sent_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON public.jobs (customer_id);
CREATE INDEX ON public.jobs (organisation, status);
CREATE INDEX ON public.jobs (created_at);
CREATE INDEX ON public.messages (job_id);

-- In a sub-select the claim is read once for each statement and not once for each row.
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['customers', 'inventory', 'jobs', 'messages'] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', one);
        EXECUTE format('CREATE POLICY own_organisation ON public.%I TO authenticated '
                       'USING (organisation = (SELECT auth.organisation())) '
                       'WITH CHECK (organisation = (SELECT auth.organisation()))', one);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO authenticated, service_role', one);
    END LOOP;
END $$;

RESET ROLE;
