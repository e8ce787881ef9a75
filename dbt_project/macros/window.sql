{% macro window_day(name) -%}
  {#- Return the variable as YYYY-MM-DD, or empty. Windows are full days, so that no bar is split. -#}
  {%- set day = var(name) | string | trim -%}
  {%- if day and not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', day) -%}
    {{ exceptions.raise_compiler_error(name ~ ": '" ~ day ~ "' is not a UTC day such as 2024-07-18") }}
  {%- endif -%}
  {{- return(day) -}}
{%- endmacro %}

{% macro in_window(column, kind='timestamp', open_ended=false) -%}
  {#- Return a predicate: a timestamp (or a date, with kind='date') is in the window of the variables. -#}
  {%- set start, end = window_day('window_start'), window_day('window_end') -%}
  {%- set zone = ' 00:00:00Z' if kind == 'timestamp' else '' -%}
  {%- set bounds = [] -%}
  {%- if start -%}
    {%- do bounds.append(column ~ ' >= ' ~ kind ~ " '" ~ start ~ zone ~ "'") -%}
  {%- endif -%}
  {%- if end and not open_ended -%}
    {%- do bounds.append(column ~ ' < ' ~ kind ~ " '" ~ end ~ zone ~ "'") -%}
  {%- endif -%}
  {{- return(bounds | join(' and ') or 'true') -}}
{%- endmacro %}

{% macro at_snapshot(relation, variable) -%}
  {#- Return the source at the snapshot given by the environment: all models and tests of a command read the same rows.
      A table without a snapshot at the command's start is read as empty, even if it receives one meanwhile. -#}
  {%- set snapshot = env_var(variable, '') -%}
  {%- if snapshot == 'none' -%}
  (select * from {{ relation }} where false)
  {%- else -%}
  {{ relation }}{{ ' version as of ' ~ snapshot if snapshot }}
  {%- endif -%}
{%- endmacro %}
