-- A shop as one meets them: tables of every kind, what hangs on them, and data that is awkward to move.
set client_min_messages = warning;
create extension if not exists plpgsql;
create schema shop;
create schema audit;
set search_path = shop, public;

create type order_state as enum ('open', 'paid', 'sent', 'lost; "really" ''gone''');
create type money_amount as (cents bigint, currency char(3));
create domain email as text check (value ~ '^[^@]+@[^@]+$');
create domain positive as integer not null check (value > 0);
create sequence invoice_number start 1000 increment 7 cache 3;
create collation german (provider = icu, locale = 'de-u-co-phonebk');

create table countries (code char(2) primary key, name text not null unique);
create table currencies (code char(3) primary key, digits smallint not null default 2);
create table customers (
  id bigint generated always as identity primary key,
  mail email not null unique, name text not null collate german, country char(2) references countries,
  born date, tags text[] not null default '{}', profile jsonb not null default '{}', photo bytea,
  since timestamptz not null default '2020-02-29 23:59:60+00', search tsvector
);
create table addresses (customer bigint references customers on delete cascade, kind text, lines text[], primary key (customer, kind));
create table suppliers (id serial primary key, name text not null, network inet, hardware macaddr, uuid uuid unique);
create table categories (id serial primary key, parent integer references categories, name text not null);
create table products (
  id serial primary key, supplier integer references suppliers, name text not null, price money_amount,
  weight numeric(12, 6), size numrange, sold tstzrange, shelf point, colours integer[][], spec xml, doc json,
  net double precision, gross double precision generated always as (net * 1.19) stored, bits bit varying(20),
  check (net is null or net >= 0)
);
create table product_categories (product integer references products, category integer references categories, primary key (product, category));
create table warehouses (id serial primary key, name text not null, place circle, opens time, shift interval);
create table stock (warehouse integer references warehouses, product integer references products, count positive, primary key (warehouse, product)) with (fillfactor = 70);
create table orders (
  id bigint not null, placed date not null, customer bigint references customers, state order_state not null default 'open',
  total numeric, primary key (id, placed)
) partition by range (placed);
create table orders_2023 partition of orders for values from ('2023-01-01') to ('2024-01-01');
create table orders_2024 partition of orders for values from ('2024-01-01') to ('2025-01-01');
create table orders_later partition of orders default;
create table lines (order_id bigint, placed date, number smallint, product integer references products, count positive, foreign key (order_id, placed) references orders) partition by hash (order_id);
create table lines_0 partition of lines for values with (modulus 3, remainder 0);
create table lines_1 partition of lines for values with (modulus 3, remainder 1);
create table lines_2 partition of lines for values with (modulus 3, remainder 2);
create table payments (id uuid primary key, order_id bigint, placed date, amount money_amount, raw bytea, foreign key (order_id, placed) references orders);
create table invoices (number bigint primary key default nextval('invoice_number'), text text);
create table shipments (id serial primary key, order_id bigint, sent timestamp, track text, weight real);
create table returns (like shipments including all);
create table coupons (code text primary key, percent smallint check (percent between 1 and 99), valid daterange);
create table reviews (id serial primary key, product integer references products, stars smallint, text text);
create table messages (sender text) inherits (reviews);
create table sessions (id text primary key, data jsonb) with (autovacuum_enabled = false);
create unlogged table carts (id serial primary key, content jsonb);
create table "Odd ""Name"" -- ;" ("select" integer, "Ünïcode" text, "a b" text default 'it''s; $$ \ ');
create table empty ();
create table audit.log (id bigserial primary key, at timestamptz not null default now(), tab regclass, op text, old jsonb, new jsonb);
create table audit.numbers (i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision, n numeric, m money);

create function audit.note() returns trigger language plpgsql security definer as $body$
begin
  insert into audit.log (at, tab, op, old, new) values ('2024-05-05', tg_relid, tg_op,
    case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
  return coalesce(new, old);
end $body$;
create function cents(money_amount) returns bigint language sql immutable as 'select ($1).cents';
create function spent(c bigint, out orders bigint, out total numeric) language sql stable
  begin atomic select count(*), sum(o.total) from shop.orders o where o.customer = c; end;
create procedure settle(state order_state) language plpgsql as $_$ begin update shop.orders set state = $1 where orders.state = 'open'; end $_$;
create aggregate product_of (numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');
create function same(money_amount, money_amount) returns boolean language sql immutable as 'select ($1).cents = ($2).cents';
create operator === (leftarg = money_amount, rightarg = money_amount, procedure = same);
create cast (money_amount as bigint) with function cents(money_amount);

create trigger customers_noted after insert or update or delete on customers for each row execute function audit.note();
create trigger coupons_noted after update on coupons for each row when (old.percent is distinct from new.percent) execute function audit.note();
create index on customers using gin (profile jsonb_path_ops);
create index on customers (lower(name)) where country is not null;
create index on customers using gin (search);
create index on orders (customer) include (total);
create index on products using gist (size);
create index on reviews using brin (id);
create statistics orders_stats (dependencies) on customer, state from orders;
create view good_customers as select c.id, c.name, s.* from customers c, lateral spent(c.id) s where s.total > 1000;
create view europeans as select * from customers where country between 'AA' and 'EA' with cascaded check option;
create view tree as with recursive t as (select id, parent, name, 1 as depth from categories where parent is null
  union all select c.id, c.parent, t.name || ' > ' || c.name, depth + 1 from categories c join t on c.parent = t.id) select * from t;
create materialized view sales as select product, sum(count) as sold from lines group by product with no data;
create rule carts_forever as on delete to carts do instead nothing;
alter table sessions enable row level security;
create policy own on sessions using (id = current_user);
alter table customers replica identity using index customers_mail_key;
alter table coupons add constraint no_overlap exclude using gist (valid with &&);
create publication everything for table customers, coupons;
comment on table customers is E'People.\nWith "quotes", ''apostrophes'' and \\ backslashes';
comment on column products.bits is 'ünïcödé ☃';
grant select on all tables in schema shop to public;

insert into countries select chr(65 + i / 26) || chr(65 + i % 26), 'country ' || i from generate_series(0, 250) i;
insert into currencies values ('EUR', 2), ('JPY', 0), ('BHD', 3);
insert into customers (mail, name, country, born, tags, profile, photo, since, search)
  select 'c' || i || '@example.test', E'Näme "' || i || E'"\t\\n\n', chr(65 + i % 9) || 'A', date '1950-01-01' + i,
    array['t' || i, null, 'a,b', '{}', '"q"', E'\\'], jsonb_build_object('n', i, 'list', array[i, null], 'deep', jsonb_build_object('ü', E'\u2603')),
    case when i % 3 > 0 then sha512(i::text::bytea) || '\x00ff0a0d5c'::bytea end, timestamptz '2021-01-01 00:00:00.123456+02' + i * interval '1 hour 1 microsecond',
    to_tsvector('simple', 'customer number ' || i)
  from generate_series(1, 2000) i;
insert into addresses select i, 'home', array['street ' || i, null, ''] from generate_series(1, 500) i;
insert into suppliers (name, network, hardware, uuid) select 's' || i, ('10.0.' || i || '.0/24')::inet, '08:00:2b:01:02:03', md5(i::text)::uuid from generate_series(1, 50) i;
insert into categories (parent, name) select nullif(i / 3, 0), 'category ' || i from generate_series(1, 60) i;
insert into products (supplier, name, price, weight, size, sold, shelf, colours, spec, doc, net, bits)
  select 1 + i % 50, 'product ' || i, row(i * 100, 'EUR')::money_amount, i / 7.0, numrange(i, i + 1, '[)'), tstzrange('2024-01-01', null), point(i, -i),
    array[[i, 2], [3, null]], xmlelement(name p, xmlattributes(i as n), '<&>'), '{"a" :  [1,2] , "a": "twice"}', case i % 5 when 0 then null when 1 then 1e-300 else i / 3.0 end, (i % 1024)::bit(10)
  from generate_series(1, 800) i;
insert into product_categories select i, 1 + i % 60 from generate_series(1, 800) i;
insert into warehouses (name, place, opens, shift) values ('north', '<(1,2),3>', '08:00:00.5', '1 mon -2 days 03:04:05.678'), ('', null, '24:00', '-1 year');
insert into stock select 1 + i % 2, i, i from generate_series(1, 800) i;
insert into orders select i, date '2023-01-01' + i % 900, 1 + i % 2000, (enum_range(null::order_state))[1 + i % 4], i * 1.01 from generate_series(1, 6000) i;
insert into lines select o.id, o.placed, n, 1 + (o.id + n) % 800, n from orders o, generate_series(1, 3) n;
insert into payments select md5(id::text)::uuid, id, placed, row(id, 'EUR')::money_amount, decode(md5(id::text), 'hex') from orders where id % 4 = 0;
insert into invoices (text) select repeat(i || ' ☃ ', i) from generate_series(1, 200) i;
insert into shipments (order_id, sent, track, weight) select id, 'infinity', null, 'NaN' from orders where id % 100 = 0;
insert into coupons values ('HALF', 50, '[2024-01-01,2024-02-01)'), ('NONE', 1, 'empty');
insert into reviews (product, stars, text) select i, i % 6, E'line\nline\r\n\t"' || i || '"' from generate_series(1, 300) i;
insert into messages (product, stars, text, sender) values (1, 1, repeat('long ', 40000), 'x');
insert into sessions values ('postgres', '{"big": 12345678901234567890.123456789}');
insert into "Odd ""Name"" -- ;" values (1, 'ä', default), (null, null, null);
insert into empty default values;
insert into audit.numbers values (-32768, -2147483648, -9223372036854775808, '-Infinity', 'NaN', 1e100, -12.34), (32767, 2147483647, 9223372036854775807, 3.4e38, 5e-324, 'Infinity', '92233720368547758.07');
update coupons set percent = 51 where code = 'HALF';
delete from customers where id > 1990 and id not in (select customer from orders);
refresh materialized view sales;
select lo_from_bytea(770077, decode(repeat('00ff5c27', 5000), 'hex'));
