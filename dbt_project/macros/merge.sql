{#-
  Update an incremental model with one MERGE: update rows with different values, insert new rows, and delete rows of the
  window without a source row. `updated_at` changes only together with another column. `incremental_predicates` on
  `present` limit the window: files outside it are not read. Without a difference nothing is committed; otherwise every
  row of the window is a source row, so that its files are replaced completely and remain few.
-#}
{% macro spark__get_merge_sql(target, source, unique_key, dest_columns, incremental_predicates) %}
  {%- set columns = model.columns.keys() | list -%}
  {%- set key = [unique_key] if unique_key is string else unique_key -%}
  {%- set window = (incremental_predicates or ['true']) | join(' and ') -%}
  {%- set same_key = [] -%}
  {%- for name in key -%}{%- do same_key.append('present.' ~ name ~ ' = fresh.' ~ name) -%}{%- endfor -%}
  {%- set same_key = same_key | join(' and ') -%}
  {%- set same = [] -%}
  {%- for name in columns if name not in key and name != 'updated_at' -%}
    {%- do same.append('present.' ~ name ~ ' <=> fresh.' ~ name) -%}
  {%- endfor -%}
  {%- set same = same | join(' and ') -%}

  {%- set changes -%}
    select count(*)
    from (select *, true as is_there from {{ source }}) as fresh
    full outer join (select *, true as is_there from {{ target }} as present where {{ window }}) as present
      on {{ same_key }}
    where fresh.is_there is null or present.is_there is null or not ({{ same }})
  {%- endset -%}
  {%- set changed = run_query(changes).rows[0][0] -%}
  {{- log(target ~ ': ' ~ changed ~ ' rows differ', info=true) -}}

  {%- if changed == 0 -%}
    select 0 as rows_changed
  {%- else -%}
    merge into {{ target }} as present
    using (
      select {{ columns | join(', ') }}, false as is_gone from {{ source }}
      union all
      select {% for name in columns %}present.{{ name }}, {% endfor %}true as is_gone
      from {{ target }} as present
      left anti join {{ source }} as fresh on {{ same_key }}
      where {{ window }}
    ) as fresh
    on {{ window }} and {{ same_key }}
    when matched and fresh.is_gone then delete
    when matched and not ({{ same }}) then update set
      {% for name in columns if name not in key %}present.{{ name }} = fresh.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
    when not matched then insert ({{ columns | join(', ') }})
      values ({% for name in columns %}fresh.{{ name }}{{ ', ' if not loop.last }}{% endfor %})
  {%- endif -%}
{% endmacro %}

{#-
  For marts with many windows per partition: each new window adds a file to its partition. Compact a partition with more
  than `most_files` files, within the run, because no other writer may change a table during a MERGE.
-#}
{% macro join_files() -%}
  {%- if execute -%}
    {%- set numbers = 'select max(files) from (select count(*) as files from ' ~ this ~ '.files group by partition)' -%}
    {%- set files = run_query(numbers).rows[0][0] or 0 -%}
    {%- if files > var('most_files') | int -%}
      {{- log(this ~ ': ' ~ files ~ ' files in a partition; compacting', info=true) -}}
      call cryptolake.system.rewrite_data_files(
        table => '{{ this.schema }}.{{ this.identifier }}',
        strategy => 'sort',
        sort_order => '{{ config.get('unique_key') | join(', ') }}',
        options => map('min-input-files', '2')
      )
    {%- endif -%}
  {%- endif -%}
{%- endmacro %}

{% macro order_files() -%}
  {#- After table creation: write one sorted file per partition. The table stores this; later runs do nothing. -#}
  {%- if execute and (flags.FULL_REFRESH or not load_relation(this)) -%}
    alter table {{ this }} write distributed by partition locally ordered by {{ config.get('unique_key') | join(', ') }}
  {%- endif -%}
{%- endmacro %}
