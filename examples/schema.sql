-- The tables that the examples are about, for trying them out: psql -f examples/schema.sql
-- Each has what a change has to carry along: a view, a policy, a trigger, a function, foreign keys, grants.
CREATE TABLE public.customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL
);

CREATE TABLE public.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint REFERENCES public.customers,
    status text NOT NULL DEFAULT 'open',
    total integer NOT NULL DEFAULT 0,
    device_info text,
    legacy_code varchar(20),
    created_at timestamp NOT NULL DEFAULT now(),
    CONSTRAINT jobs_total_positive CHECK (total >= 0)
);
CREATE INDEX jobs_status_idx ON public.jobs (status, created_at);
COMMENT ON COLUMN public.jobs.total IS 'in cents';

CREATE TABLE public.job_parts (
    job_id bigint NOT NULL REFERENCES public.jobs ON DELETE CASCADE,
    part integer NOT NULL,
    PRIMARY KEY (job_id, part)
);

CREATE TABLE public.orders (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint,
    total numeric NOT NULL DEFAULT 0
);
CREATE INDEX orders_customer_idx ON public.orders (customer_id);

CREATE TABLE public.order_items (
    order_id bigint NOT NULL REFERENCES public.orders,
    line integer NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE TABLE public.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text,
    phone text,
    country text,
    phone_e164 text
);

CREATE VIEW public.open_jobs AS SELECT id, status, total FROM public.jobs WHERE status = 'open';

CREATE FUNCTION public.revenue() RETURNS bigint LANGUAGE sql AS 'SELECT sum(total) FROM public.jobs';
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.touch();

-- Whom the shop lets in. A role that may not create roles leaves that to another.
DO $$ BEGIN CREATE ROLE shop_visitor NOLOGIN; EXCEPTION WHEN duplicate_object OR insufficient_privilege THEN NULL; END $$;

ALTER TABLE public.jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY small_jobs ON public.jobs FOR SELECT USING (total < 1000);
GRANT SELECT ON public.jobs TO PUBLIC;

INSERT INTO public.customers (email) SELECT 'customer' || n || '@example.org' FROM generate_series(1, 100) n;
INSERT INTO public.jobs (customer_id, status, total, device_info, legacy_code)
SELECT n % 100 + 1, CASE WHEN n % 3 = 0 THEN 'In Progress' ELSE 'open' END, n, '{"os": "linux"}', 'L' || n
FROM generate_series(1, 1000) n;
INSERT INTO public.orders (customer_id, total) SELECT n % 100 + 1, n FROM generate_series(1, 1000) n;
INSERT INTO public.order_items (order_id, line) SELECT id, 1 FROM public.orders WHERE total >= 10;
INSERT INTO public.users (email, phone, country) SELECT 'user' || n || '@example.org', '030 ' || n, 'DE' FROM generate_series(1, 1000) n;

CREATE TABLE public.products (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    legacy_code text COLLATE "C" NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX products_legacy_code_idx ON public.products (legacy_code) WHERE legacy_code <> '';
COMMENT ON COLUMN public.products.legacy_code IS 'the code of the old shop';
INSERT INTO public.products (id, name, legacy_code) SELECT n, 'product ' || n, 'P' || n FROM generate_series(1, 100) n;

-- Without a key, and with NULLs allowed where one is to be.
CREATE TABLE public.page_views (id bigint, path text NOT NULL, seen_at timestamptz);
INSERT INTO public.page_views SELECT n, '/products/' || n, now() FROM generate_series(1, 100) n;

CREATE TABLE public.old_sessions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint REFERENCES public.users);
INSERT INTO public.old_sessions (user_id) SELECT n FROM generate_series(1, 100) n;
