{% test nothing_missing(model, columns, column='window_start', kind='timestamp') %}
{#- Rows of the window with NULL in one of the columns. -#}
select *
from {{ model }}
where ({{ columns | join(' is null or ') }} is null){% if column %} and {{ in_window(column, kind=kind) }}{% endif %}
{% endtest %}
