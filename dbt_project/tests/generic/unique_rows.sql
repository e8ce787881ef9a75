{% test unique_rows(model, key, column='window_start', kind='timestamp') %}
{#- Keys that more than one row of the window has. -#}
select {{ key | join(', ') }}, count(*) as copies
from {{ model }}
{% if column %}where {{ in_window(column, kind=kind) }}{% endif %}
group by {{ key | join(', ') }}
having count(*) > 1
{% endtest %}
