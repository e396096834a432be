-- What psql does in a script; what it prints is compared.
\set ON_ERROR_STOP off
create table things (id serial primary key, name text, at date default '2024-02-29');
insert into things (name) values ('one'), ('two'), (null), (E'tab\t and \\ and ☃');
select * from things order by id;
\d things
\x on
select 'a' as "first column", 2 as second;
\x off
\pset null '(null)'
\pset format csv
table things;
\pset format aligned
select name, count(*) from things group by name order by name nulls last \crosstabview
select 1 as one, 'zwei' as two \gset got_
\echo :got_one :'got_two'
select 'select ' || n from generate_series(1, 3) n \gexec
select 1/0;
selec 1;
select repeat('x', 100000) as long \g (cat >/dev/null)
begin;
insert into things (name) values ('lost');
savepoint a;
insert into things (id) values (1);
rollback to a;
select count(*) from things;
rollback;
select 1 \; select 2 \; select 3;
do $$ begin raise notice 'a notice'; raise warning 'a warning' using hint = 'a hint'; end $$;
listen news;
notify news, 'hello, ☃';
select 'and on';
unlisten *;
prepare put (text) as insert into things (name) values ($1) returning name;
execute put('prepared');
deallocate put;
declare walk cursor with hold for select generate_series(1, 5);
fetch 2 from walk;
fetch all from walk;
close walk;
\copy things (name) from stdin
copied here
\N
a\ttab
\.
\copy things (name) from 'in.txt'
\copy (select id, name from things order by id) to 'out.csv' csv header
\copy things (nothing) from 'in.txt'
copy things (id) from stdin;
not a number
\.
copy (select name from things order by id) to stdout;
\lo_import 'photo' 'a photo'
\lo_export :LASTOID 'photo.back'
select loid = :LASTOID, length(lo_get(loid)), description from pg_largeobject_metadata m join pg_description on objoid = m.oid join (select distinct loid from pg_largeobject) l on l.loid = m.oid;
\lo_unlink :LASTOID
select current_setting('application_name'), current_user, current_database();
\conninfo
\encoding
\encoding LATIN1
select 'ä', length('ä');
\encoding UTF8
set role pg_monitor;
select current_user;
reset role;
set session characteristics as transaction read only;
insert into things (name) values ('refused');
\errverbose
