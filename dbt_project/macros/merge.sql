{#-
  How an incremental model changes its table: one MERGE that updates the rows whose values differ, inserts new ones and
  deletes those of the window that have no source any more. `updated_at` is kept where nothing else moved. The window is
  said by `incremental_predicates`, on `present`: files outside it are not read. Where nothing differs nothing is
  committed; otherwise every row of the window is a source, so that its files are replaced as a whole and stay few.
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
  For marts whose partitions hold many windows: each new window adds a file to its partition. It joins them once there
  are more than `most_files`, in the run itself, because nobody else may write where a MERGE could be under way.
-#}
{% macro join_files() -%}
  {%- if execute -%}
    {%- set numbers = 'select max(files) from (select count(*) as files from ' ~ this ~ '.files group by partition)' -%}
    {%- set files = run_query(numbers).rows[0][0] or 0 -%}
    {%- if files > var('most_files') | int -%}
      {{- log(this ~ ': ' ~ files ~ ' files in a partition are joined', info=true) -}}
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
  {#- After the table was made: one sorted file a partition. The table keeps it; later runs have nothing to do. -#}
  {%- if execute and (flags.FULL_REFRESH or not load_relation(this)) -%}
    alter table {{ this }} write distributed by partition locally ordered by {{ config.get('unique_key') | join(', ') }}
  {%- endif -%}
{%- endmacro %}
